"""What imsd knows about images, jobs, uploads and packs: tables, queries, migrations."""
