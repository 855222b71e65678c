"""Programs beside the server: `kotae bench` and `kotae tune`."""
