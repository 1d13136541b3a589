"""Foreign JSON dialects <-> our requests and events; nothing else knows them."""
