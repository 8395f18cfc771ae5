"""Services for any program: command line, files, reporting, the hub, devices, processes."""
