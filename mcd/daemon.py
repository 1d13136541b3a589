"""The composition root: the only module that builds adapters and hands them to rooms."""
