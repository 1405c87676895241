"""The local cluster: nodes are names, pods are processes of this machine."""
