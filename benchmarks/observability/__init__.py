"""The dashboards and rules held against a real Prometheus that scrapes the service under load."""
