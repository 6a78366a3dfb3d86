"""What the running Envoys say about services: health of endpoints and states of circuits. Read only."""
