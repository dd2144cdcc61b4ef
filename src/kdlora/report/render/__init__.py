"""A report as files: HTML, Markdown, LaTeX, SVG and the terminal."""
