"""Work on other machines: SSH connections, the agent on a host, tunnels, and the choice of the machine."""
