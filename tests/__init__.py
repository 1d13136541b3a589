"""Tests. Whatever is imported from here may import libp2p, so the stand-ins for its unused parts come first."""

import mcd.mesh  # noqa: F401  # for what it does when imported
