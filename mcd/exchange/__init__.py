"""One request between two peers, both roles, sans-IO."""
