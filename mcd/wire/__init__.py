"""Every struct that crosses a peer boundary. No re-exports: who may import `envelope` is a build rule."""
