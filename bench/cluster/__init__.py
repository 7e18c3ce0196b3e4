"""Where cells run: this process, or several on this machine."""
