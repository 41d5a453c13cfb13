"""The trial of hosts: they share an origin, a fault strikes, and a judge looks at what all of them have seen."""
