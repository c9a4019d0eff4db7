"""Where and how it is computed: devices, processes, and what is tuned for each."""
