"""Integer money and what was delivered: pure arithmetic and fixed layouts."""
