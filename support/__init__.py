"""What any program needs: errors, reporting, the hub, devices, processes. Knows no BERT."""
