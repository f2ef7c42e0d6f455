"""The test cluster: a home and N nodes on one machine, in namespaces of their own."""
