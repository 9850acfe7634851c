"""From the text of a response to the answer that it states; `selectllm.data.grading` has the list."""
