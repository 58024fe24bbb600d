# SPDX-License-Identifier: BSD-3-Clause
"""A fit for people: tables, pictures, pages."""
