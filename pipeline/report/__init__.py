"""The report: files of finished runs become tables, figures and one page. Reads files only and never needs torch."""
