"""Key files and journals on disk; never the text of a prompt."""
