"""How each number is taken; runs inside a worker, never in the parent."""
