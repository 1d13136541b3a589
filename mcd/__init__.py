"""ModelCloud's daemon: people's own GPUs serving open language models to everyone.

The map. A room imports only rooms below its line; rooms on one line never import one another.

    cli          what you type; read commands talk to the daemon's control socket and load nothing else
    daemon       the composition root: the only module that builds adapters and hands them to rooms
    gateway      aiohttp: OpenAI's HTTP face, the control socket, the one asyncio/trio seam
    entry        one request from plan to last token: choose, seal, stream, fail over, cancel
    provider     one inbound exchange: admit or refuse, feed the engine, announce our record
    mesh         libp2p and nothing else: host, muxer, gossip, DHT, LAN, limits
    engine       the inference process (llama.cpp) and its supervisor; plaintext lives in its child only
    settlement   the chain                            store   key files and journals, never text
    conversation one exchange over one stream, the same thin shell for both roles
    ports        the Protocols through which the rooms above meet
    exchange     one request between two peers, sans-IO       api   foreign JSON <-> our requests and events
    routing      which provider, and why                      payments   integer money, receipts
    wire         every struct that crosses a peer boundary, its limits, and the MCS/1 envelope
    config log cards rate   errors ids units spool

Read next: specs/00-introduction.md (one request end to end), then mcd/exchange/states.py.
"""

__version__ = "0.1.0"
