"""Photos and captions before anything is learned: what training will see, what is likely wrong."""
