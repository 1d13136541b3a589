"""The inference process and its supervisor; plaintext lives in the child process only."""
