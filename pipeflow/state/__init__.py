"""Pure state machines: what queues, topics and stream buffers do, with time, ids and chance as arguments."""
