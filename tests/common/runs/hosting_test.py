"""What a learner writes of its evaluators' results."""

from common.runs import hosting


def test_a_file_of_an_earlier_version_gets_the_columns_that_it_lacks(tmp_path):
  path = tmp_path / 'evaluator.csv'
  path.write_text('task,mean\na,1.5\nb,2.5\n')
  hosting._append(path, {'task': 'c', 'cut': 1, 'mean': 3.5})
  hosting._append(path, {'task': 'd', 'cut': 0, 'mean': 4.5})
  assert path.read_text().split() == ['task,cut,mean', 'a,,1.5', 'b,,2.5', 'c,1,3.5', 'd,0,4.5']
