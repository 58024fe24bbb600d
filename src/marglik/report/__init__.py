"""A fit for people: tables, pictures, pages."""
