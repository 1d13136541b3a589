"""The inference process and its supervisor; plaintext lives in the child process only.

    daemon's side    client      `ports.Engine`: submit, status, keys; restarts what dies
                     supervise   one child process: start, frames in and out, stop, back-off
                     events      one request's frames as the port's events, and the credit for them
                     catalogue   names and paths to the engines to start       digest    SHA-256 of a model file
                     ggufcheck   judges a header before llama.cpp meets it     gguf_facts  what it says
                     fit         layers and context for the memory there is    memory, gpu  how much there is
    between          messages    the frames on the socketpair
    worker's side    worker      the loop: frames, one step, flush, one write  link      its end of the socketpair
                     load        confine, then import what computes            sandbox   what it confines with
                     seal        keys, opening, sealing, when frames leave     answer    one answer being sealed
                     backend     what the worker asks of whatever computes:
                     llama         chat requests to sequences and back         chat      the model's own template
                       scheduler     who is in the batch                       sequence  one choice being generated
                       slots, kv     which cells and caches; llama.cpp's memory
                       sampler       the next token                            grammar, schema   what it may be
                       text, tools   bytes to text; text to thoughts, answer, calls
                       model, batch, abi, measure   llama.cpp itself    devices   its GPUs, in a process of its own
                     scripted, script   answers from a file, for tests
                     openai, upstream   another server computes; only the last has sockets

A request: worker.Submit -> seal.open -> backend.submit -> step* -> answer.piece -> seal -> messages.Chunk.
"""
