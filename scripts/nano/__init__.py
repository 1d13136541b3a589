"""Trains the embedded model `modelcloud-nano`: corpus, tokenizer, transformer, GGUF export."""
