"""MCS/1: seal and open requests and response frames end to end (specs/06)."""
