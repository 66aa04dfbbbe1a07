"""Brokers and sinks that reach other systems; each is one file that needs only pipeflow's contracts."""
