"""What an answer must look like, as a grammar for llama.cpp (GBNF): from schemas and the ways of calling.   Pure.

    constraint  what a request demands of its answer, and from which mark on
    calls       how a family writes calls of these tools
    schema      a JSON schema; with merge (allOf, oneOf), objects, strings, numbers, pattern
    notation    how a value is written: JSON, Gemma's, or bare between two tags
    rules       rules under names, literals and classes of characters

What a keyword demands is either enforced or refused by its name; nothing is ignored but annotations.
"""
