"""The engine side of MCS/1: holds the seal keys, opens requests, seals frames."""
