"""`python -m longatlas_dashboard`: the server alone; `longatlas dashboard` checks port and store first."""

from longatlas_dashboard.launch import main

main()
