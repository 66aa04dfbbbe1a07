"""Workers, heartbeats, deliveries and sources: everything that runs while an app is open."""
