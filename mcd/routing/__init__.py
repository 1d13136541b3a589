"""Which provider gets a request, and why: pure decisions over verified records and measured numbers."""
