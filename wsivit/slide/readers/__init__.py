"""The readers, one module each; `wsivit.slide.backend` says what a reader is."""
