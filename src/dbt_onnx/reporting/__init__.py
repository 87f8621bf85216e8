"""The report: one HTML page about the scoring models of a project.

gather.py          reads what the page is about from the warehouse and the project's files
contents.py        the sections, with blocks from run_charts, distributions, served and outcomes
charts.py          tables, and charts as shapes
page.py            the page as HTML, with page.html.jinja and page.css
"""
