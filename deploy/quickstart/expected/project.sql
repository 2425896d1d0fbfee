-- Approved investment projects, in the standard's words, by plain SQL.
CREATE TEMP VIEW project AS
SELECT
    project_code,
    apply_project_name AS name,
    CASE project_type WHEN 'A00001' THEN '01' WHEN 'A00002' THEN '02' WHEN 'A00003' THEN '03' END AS approval_type,
    substr(place_code, 1, 6) AS division,
    printf('%.4f', total_money) AS total_investment,
    enterprise_name AS owner_name,
    enterprise_code AS owner_uscc,
    contact_name,
    contact_phone,
    substr(apply_date, 1, 10) AS apply_date,
    CASE state WHEN '申报' THEN '10' WHEN '受理' THEN '20' WHEN '批复' THEN '30' WHEN '开工' THEN '40' WHEN '竣工' THEN '50' WHEN '终止' THEN '90' END AS status
FROM department.project_info;
