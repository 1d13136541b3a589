"""Tests. Whatever is imported from here may import libp2p, so its stand-in for fastecdsa comes first."""

import mcd.mesh  # noqa: F401  # for what it does when imported
