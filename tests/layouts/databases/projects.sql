-- 3A 发展改革 在线审批监管平台: English snake case; divisions of 12 digits; times with their zone; the owner is named by a certificate of a kind.
CREATE TABLE "project_info" (
    "deal_code" TEXT NOT NULL,
    "project_code" TEXT,
    "apply_project_name" TEXT,
    "project_type" TEXT,
    "project_nature" TEXT,
    "the_industry" TEXT,
    "place_code" TEXT,
    "place_code_detail" TEXT,
    "scale_content" TEXT,
    "total_money" NUMERIC(18,4),
    "enterprise_name" TEXT,
    "lerep_certtype" TEXT,
    "lerep_certno" TEXT,
    "contact_phone" TEXT,
    "start_year" TEXT,
    "end_year" TEXT,
    "apply_date" TEXT,
    "is_foreign" TEXT,
    PRIMARY KEY ("deal_code")
);
COMMENT ON TABLE "project_info" IS '项目申报信息';
COMMENT ON COLUMN "project_info"."deal_code" IS '办件编码';
COMMENT ON COLUMN "project_info"."project_code" IS '项目代码';
COMMENT ON COLUMN "project_info"."apply_project_name" IS '项目名称';
COMMENT ON COLUMN "project_info"."project_type" IS '项目类型';
COMMENT ON COLUMN "project_info"."project_nature" IS '建设性质';
COMMENT ON COLUMN "project_info"."the_industry" IS '国标行业';
COMMENT ON COLUMN "project_info"."place_code" IS '建设地点';
COMMENT ON COLUMN "project_info"."place_code_detail" IS '建设地点详情';
COMMENT ON COLUMN "project_info"."scale_content" IS '建设规模及内容';
COMMENT ON COLUMN "project_info"."total_money" IS '总投资（万元）';
COMMENT ON COLUMN "project_info"."enterprise_name" IS '项目单位';
COMMENT ON COLUMN "project_info"."lerep_certtype" IS '项目单位证照类型';
COMMENT ON COLUMN "project_info"."lerep_certno" IS '项目单位证照号码';
COMMENT ON COLUMN "project_info"."contact_phone" IS '联系电话';
COMMENT ON COLUMN "project_info"."start_year" IS '拟开工时间';
COMMENT ON COLUMN "project_info"."end_year" IS '拟建成时间';
COMMENT ON COLUMN "project_info"."apply_date" IS '申报日期';
COMMENT ON COLUMN "project_info"."is_foreign" IS '是否涉及外资';
