"""The flagship as people would write it with other tools, measured beside lakelet on the same landing data."""
