"""Where images and labels come from: named data sets, arrays, image folders, the Hugging Face Hub."""
