"""The only importer of libp2p: host, muxer, gossip, DHT, LAN discovery, and every limit on them."""
