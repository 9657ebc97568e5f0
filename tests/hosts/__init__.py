"""Hosts that tests reach by SSH: containers, or an sshd on this machine."""
