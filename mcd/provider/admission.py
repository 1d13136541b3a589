"""Admission: accept, queue or refuse one request, pure."""
