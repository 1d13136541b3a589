"""The only importer of libp2p: host, muxer, gossip, DHT, LAN discovery, and every limit on them."""

from mcd.mesh.unused import stand_in

stand_in()  # before any import of libp2p
