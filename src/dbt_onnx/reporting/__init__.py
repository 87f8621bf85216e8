"""The report: one HTML page about the scoring models of a project.

gather.py   reads what the page is about from the warehouse and the project's files
charts.py   turns figures into a chart, which always has a table with the same figures
contents.py sections, texts and tables of the page
page.py     the page as HTML
"""
