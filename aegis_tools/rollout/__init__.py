"""What a rollout over many hosts decides: is this host well after the change, and why not."""
