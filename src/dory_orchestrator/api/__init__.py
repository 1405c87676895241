"""HTTP as we serve it: the edge API, probes, metrics and their description."""
