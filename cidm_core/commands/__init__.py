"""The `cidm` command's verbs, one file each; heavy imports happen inside `run`."""
