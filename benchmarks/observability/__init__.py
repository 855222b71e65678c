"""Checks the dashboards and rules with a real Prometheus that scrapes the service under load."""
