"""The inference process and its supervisor; plaintext lives in the child process only.

    daemon's side    client, life  `ports.Engine`: submit, status, keys; one process after another
                     fleet, residency  several models: which are loaded, who makes room for whom
                     supervise     one child process: start, frames in and out, stop, back-off
                     events        one request's frames as the port's events, and the credit for them
                     catalogue, known_models  names and paths to the engines to start; what `mcd pull` knows
                     ggufcheck, gguf_facts    judges a header before llama.cpp meets it; what it says
                     fit, layers   layers and context for the memory there is     memory, gpu  how much there is
                     digest, faults           SHA-256 of a model file; a failed start in words
    between          messages      the frames on the socketpair
    worker's side    worker        the loop: frames, one step, flush, one write   link         its end of the socketpair
                     load, sandbox confine, then import what computes             seccomp, landlock, kernel  with what
                     seal, answer  keys, opening, sealing, when frames leave; one answer being sealed   parts  tasks'
                     backend       what the worker asks of whatever computes:
                     llama           chat requests to sequences and back          prompts, chat  through the template
                       scheduler       who is in the batch                        sequence     one choice under way
                       slots, kv       which cells and caches; llama.cpp's memory checkpoints, tidy  copies; wiping
                       sampler, guide  the next token, and which grammar binds it gbnf/        what it may be
                       text, parsers/  bytes to text; text to thoughts, answer, calls
                       vision, spans   pictures through the projector
                       model, batch, abi, measure, pace   llama.cpp itself        devices      its GPUs
                     embed, encoder  embeddings and rerank     lexicon, aside     tokens counted beside the loop
                     scripted        answers from a file, for tests               openai, upstream, foreign  a server's
    killed at will   killable      processes for what strangers wrote: renderer, rendering  templates (jinja_sandbox,
                     template_caps, shaping, controls); decoder, decoding  pictures

A request: worker.Submit -> seal.open -> backend.submit -> step* -> answer.piece -> seal -> messages.Chunk.
"""
